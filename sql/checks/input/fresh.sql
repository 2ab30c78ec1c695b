-- severity: warn
-- reads: tonight, bounds
-- The newest interaction is at most 30 days old when the night starts, unless the source is static.
with final as (
    select
        tonight.newest as newest_interaction,
        date_diff('second', tonight.newest, bounds.started_at) / 86400 as age_days,
        bounds.warn_age_days
    from tonight, bounds
)

select newest_interaction, age_days from final
where age_days > warn_age_days
