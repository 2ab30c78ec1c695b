-- severity: error
-- reads: churn, tonight, bounds
-- Lists differ from the published ones by at most max_change, where it is set: 1 - Jaccard, mean over users.
-- remedy: to publish this night anyway, run it again with --accept-churn
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
