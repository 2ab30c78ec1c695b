-- severity: warn
-- reads: churn, tonight, bounds
-- Lists differ from the published ones by at most warn_change: 1 - Jaccard, mean over the users with both lists.
with final as (
    select churn.compared_with, churn.n, 1 - churn.jaccard as change
    from churn
    semi join tonight using (run_id)
    where churn.segment = 'all'
)

select * from final where change > (select warn_change from bounds)
