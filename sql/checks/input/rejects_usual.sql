-- severity: warn
-- reads: tonight, earlier_nights
-- The share of rejected lines is at most three times that of the last published nights, plus 0.1 percentage points.
with usual as (
    select sum(rejected) / sum(rejected + rows) as share from earlier_nights
),

final as (
    select
        tonight.rejected,
        tonight.rejected / (tonight.rejected + tonight.rows) as rejected_share,
        usual.share as usual_share
    from tonight, usual
)

select * from final where rejected_share > 3 * usual_share + 0.001
