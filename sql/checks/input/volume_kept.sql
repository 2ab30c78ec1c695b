-- severity: error
-- reads: tonight, earlier_nights, bounds
-- The source has more than 1 - max_shrink of the rows of the last published night with the same source mode.
-- remedy: if the source really is that much smaller, run once with --set checks.max_shrink=1
with before as (
    select * from earlier_nights order by run_id desc limit 1
),

final as (
    select
        before.run_id as night_before,
        before.rows as rows_before,
        tonight.rows,
        before.rows - tonight.rows as lost
    from tonight, before
)

select * from final
where lost > 0 and lost >= (select max_shrink from bounds) * rows_before - 1e-6
