-- severity: error
-- reads: churn, tonight, bounds
-- Lists differ from the published ones by max_change or less, where it is set: 1 - Jaccard, mean over users.
-- remedy: to publish this night all the same, run again with --accept-churn
with final as (
    select
        churn.compared_with,
        churn.n,
        1 - churn.jaccard as change,
        (select max_change from bounds) as max_change
    from churn
    semi join tonight using (run_id)
    where churn.segment = 'all'
)

select * from final where change > max_change
