-- severity: error
-- reads: fallback_items, ranked_items, wanted
-- Lists for users who are not known yet have dense ranks, finite scores that do not increase, each item once, and as many items as
-- there are, up to top_n; fewer only where a limit by attribute leaves fewer. One of them is for all users.
with placed as (
    select
        *,
        row_number() over (partition by attribute, value order by rank) as expected_rank,
        lag(score) over (partition by attribute, value order by rank) as score_before,
        count(*) over (partition by attribute, value, item_id) as times
    from fallback_items
),

lengths as (
    select attribute, value, count(*) as n from fallback_items group by all
),

final as (
    select value, rank, item_id, 'rank' as problem from placed where rank <> expected_rank
    union all
    select value, rank, item_id, 'score' from placed where not isfinite(score) or score > score_before
    union all
    select value, rank, item_id, 'twice' from placed where times > 1
    union all
    select value, n, null, 'length'
    from lengths, wanted
    where n > least(wanted.top_n, (select count(*) from ranked_items))
        or (n < least(wanted.top_n, (select count(*) from ranked_items)) and wanted.exact)
    union all
    select null, null, null, 'no list for all users'
    where exists (from lengths) and not exists (from lengths where attribute is null and value is null)
)

select * from final
