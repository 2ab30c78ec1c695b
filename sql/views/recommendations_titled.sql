-- reads: recommendations, items, reasons
-- because_of: Titles of the items of the user's history that add most to the score, by semicolons; null without export.reasons
-- Recommendations with the items' titles.
create view recommendations_titled as
with named_reasons as (
    select
        reasons.user_id,
        reasons.rank,
        string_agg(coalesce(items.title, reasons.because_item_id), '; ' order by reasons.because_rank) as because_of
    from reasons
    left join items on items.item_id = reasons.because_item_id
    where reasons.because_rank > 0
    group by reasons.user_id, reasons.rank
)

select
    recommendations.user_id,
    recommendations.rank,
    recommendations.item_id,
    items.title,
    recommendations.score,
    recommendations.source,
    recommendations.model,
    recommendations.run_id,
    named_reasons.because_of,
    recommendations.list_id
from recommendations
left join (select item_id, title from items) as items using (item_id)
left join named_reasons using (user_id, rank)
