-- severity: error
-- reads: popular_items, items, banned_items
-- Popular items of a window have dense ranks, finite scores above 0 that do not increase, each item once, only items with a valid
-- row, and none that a rule of [export] excludes.
with placed as (
    select
        *,
        row_number() over (partition by window_days order by rank) as expected_rank,
        lag(score) over (partition by window_days order by rank) as score_before,
        count(*) over (partition by window_days, item_id) as times
    from popular_items
),

final as (
    select window_days, rank, item_id, 'rank' as problem from placed where rank <> expected_rank
    union all
    select window_days, rank, item_id, 'score' from placed
    where not isfinite(score) or score <= 0 or score > score_before
    union all
    select window_days, rank, item_id, 'twice' from placed where times > 1
    union all
    select placed.window_days, placed.rank, placed.item_id, 'no valid row'
    from placed
    anti join (select item_id from items where n_interactions > 0) as known using (item_id)
    union all
    select placed.window_days, placed.rank, placed.item_id, 'excluded'
    from placed
    semi join banned_items using (item_id)
)

select * from final
