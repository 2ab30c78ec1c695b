-- reads: recommendations, items
-- Every item's popularity in the source beside how often it is recommended: where lists and habits part.
create view item_exposure as
with shown as (
    select item_id, count(*) as lists, avg(rank) as mean_rank from recommendations group by item_id
),

served as (
    select count(distinct user_id) as users from recommendations
)

select
    items.item_id,
    items.title,
    items.n_interactions,
    rank() over (order by items.n_interactions desc) as popularity_rank,
    coalesce(shown.lists, 0) as lists,
    coalesce(shown.lists, 0) / served.users as share_of_users,
    shown.mean_rank
from items
cross join served
left join shown on shown.item_id = items.item_id
order by lists desc, items.n_interactions desc, items.item_id
