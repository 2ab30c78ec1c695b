-- reads: users, recommendations, items, biases
-- One row per user: activity, the model that made the list, and the list itself, with titles where there are any.
-- n_recommended: Length of the list
-- recommended: Titles of the recommended items, item ids where there is no title, best first
-- mean_popularity: Mean number of interactions of the recommended items
-- bias: The champion's bias of the user, in the unit of its score; null where it has none
create view user_overview as
with lists as (
    select
        recommendations.user_id,
        min(recommendations.model) as model,
        (array_agg(
            recommendations.source order by recommendations.source in ('promoted', 'explore'), recommendations.rank
        ))[1] as source,
        count(*) as n_recommended,
        array_agg(coalesce(items.title, recommendations.item_id) order by recommendations.rank) as recommended,
        cast(avg(items.n_interactions) as double precision) as mean_popularity
    from recommendations
    left join items on items.item_id = recommendations.item_id
    group by recommendations.user_id
),

own_biases as (
    select biases.id, biases.bias
    from biases
    join (select distinct model from recommendations) as champion on champion.model = biases.model
    where biases.kind = 'user'
)

select
    users.user_id,
    users.n_interactions,
    users.first_seen,
    users.last_seen,
    lists.source,
    lists.model,
    lists.n_recommended,
    lists.recommended,
    lists.mean_popularity,
    own_biases.bias
from users
left join lists on lists.user_id = users.user_id
left join own_biases on own_biases.id = users.user_id
