-- reads: recommendations_in, items
-- The further lists of [lists], with the items' titles.
create view recommendations_in_titled as
select
    recommendations_in.list,
    recommendations_in.user_id,
    recommendations_in.rank,
    recommendations_in.item_id,
    items.title,
    recommendations_in.score,
    recommendations_in.source,
    recommendations_in.model,
    recommendations_in.run_id
from recommendations_in
left join items using (item_id)
