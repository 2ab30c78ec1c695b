-- reads: recommendations, items
-- One row per item: its popularity in the source next to how often it is recommended.
-- popularity_rank: 1 is the item with the most interactions; equal counts share a rank
-- lists: Lists that have the item
-- share_of_users: lists / users with a list
-- mean_rank: Mean rank in these lists; null where no list has the item
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
    cast(coalesce(shown.lists, 0) as double precision) / nullif(served.users, 0) as share_of_users,
    shown.mean_rank
from items
cross join served
left join shown on shown.item_id = items.item_id
order by lists desc, items.n_interactions desc, items.item_id
