-- severity: error
-- reads: trending_items, items, item_attributes, banned_items
-- Ranks of trending items are dense by the lower end of their interval, which holds the growth, and each of them grows. A list
-- has an item once, only items with a valid row and the value of the list, and none that a rule of [export] excludes.
with placed as (
    select
        *,
        row_number() over (partition by window_days, attribute, value order by rank) as expected_rank,
        lag(ci_low) over (partition by window_days, attribute, value order by rank) as low_before,
        count(*) over (partition by window_days, attribute, value, item_id) as times
    from trending_items
)

select window_days, value, rank, item_id, growth, ci_low, ci_high from placed
where
    rank <> expected_rank or not isfinite(ci_high) or not ci_low <= growth or not growth <= ci_high or growth <= 1
    or ci_low > low_before or times > 1
    or item_id not in (select item_id from items where n_interactions > 0)
    or item_id in (select item_id from banned_items)
    or (value is not null and not exists (
        from item_attributes
        where item_attributes.item_id = placed.item_id and item_attributes.attribute = placed.attribute
            and item_attributes.value = placed.value
    ))
