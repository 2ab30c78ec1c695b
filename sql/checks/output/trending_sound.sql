-- severity: error
-- reads: trending_items
-- Ranks of trending items are dense by the lower end of their interval, which holds the growth, and each of them grows.
with placed as (
    select
        *,
        row_number() over (partition by window_days, attribute, value order by rank) as expected_rank,
        lag(ci_low) over (partition by window_days, attribute, value order by rank) as low_before
    from trending_items
)

select window_days, value, rank, item_id, growth, ci_low, ci_high from placed
where
    rank <> expected_rank or not isfinite(ci_high) or not ci_low <= growth or not growth <= ci_high or growth <= 1
    or ci_low > low_before
