-- severity: warn
-- reads: tonight, bounds
-- The newest interaction is no older than 30 days when the night starts.
with final as (
    select
        tonight.newest as newest_interaction,
        date_diff('second', tonight.newest, bounds.started_at) / 86400 as age_days
    from tonight, bounds
)

select * from final
where age_days > 30
