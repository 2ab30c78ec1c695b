-- severity: warn
-- reads: recommendations
-- Fewer than one user in ten is served popular items for want of a better answer.
with final as (
    select
        count(distinct user_id) filter (source = 'fallback') as n_fallback,
        count(distinct user_id) as n
    from recommendations
)

select * from final where n_fallback > 0.1 * n
