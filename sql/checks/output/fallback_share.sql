-- severity: warn
-- reads: recommendations
-- At most 10 % of the users are served popular items because the model can't serve them.
with final as (
    select
        count(distinct user_id) filter (source = 'fallback') as n_fallback,
        count(distinct user_id) as n
    from recommendations
)

select * from final where n_fallback > 0.1 * n
