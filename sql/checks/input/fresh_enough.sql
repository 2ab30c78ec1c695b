-- severity: error
-- reads: tonight, bounds
-- The newest interaction is at most max_age_days old, if that is set, when the night starts.
-- remedy: provide newer files, or raise checks.max_age_days
with final as (
    select
        tonight.newest as newest_interaction,
        date_diff('second', tonight.newest, bounds.started_at) / 86400 as age_days,
        bounds.max_age_days
    from tonight, bounds
)

select * from final
where age_days > max_age_days
