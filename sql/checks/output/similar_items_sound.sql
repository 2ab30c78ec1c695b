-- severity: error
-- reads: similar_items
-- Ranks of an item are dense, scores finite and non-increasing, no item is similar to itself, and none is there twice.
with final as (
    select
        item_id,
        similar_item_id,
        rank,
        score,
        row_number() over (partition by item_id order by rank) as expected,
        lag(score) over (partition by item_id order by rank) as score_before,
        count(*) over (partition by item_id, similar_item_id) as times
    from similar_items
)

select * from final
where rank <> expected or not isfinite(score) or score > score_before or item_id = similar_item_id
    or times > 1
