-- severity: warn
-- reads: realised, tonight, deciding
-- Published lists are not significantly worse than popularity on what users did in the longest time measured tonight.
with measured as (
    select realised.*
    from realised
    join tonight on tonight.run_id = realised.measured_by
    join deciding on deciding.metric = realised.metric and deciding.cutoff = realised.cutoff
    where realised.segment = 'all' and realised.list_source = 'published - popularity'
),

final as (
    select run_id, horizon_days, value, ci_low, ci_high, n
    from measured
    where horizon_days = (select max(horizon_days) from measured)
)

select * from final where ci_high < 0
