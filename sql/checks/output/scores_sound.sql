-- severity: error
-- reads: recommendations
-- Scores are finite and do not increase with the rank.
with final as (
    select
        user_id,
        rank,
        score,
        lag(score) over (partition by user_id order by rank) as score_before
    from recommendations
)

select * from final where not isfinite(score) or score > score_before
