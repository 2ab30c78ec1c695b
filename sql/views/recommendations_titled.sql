-- reads: recommendations, items
-- Recommendations with the items' titles.
create view recommendations_titled as
select
    recommendations.user_id,
    recommendations.rank,
    recommendations.item_id,
    items.title,
    recommendations.score,
    recommendations.source,
    recommendations.model,
    recommendations.run_id
from recommendations
left join items using (item_id)
