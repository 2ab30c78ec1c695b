-- severity: error
-- reads: recommendations
-- Scores are finite and, promoted and drawn items left out, do not increase with the rank.
with final as (
    select
        user_id,
        rank,
        score,
        lag(score) over (partition by user_id, source in ('promoted', 'explore') order by rank) as score_before,
        source
    from recommendations
)

select user_id, rank, score, score_before from final
where not isfinite(score) or (score > score_before and source not in ('promoted', 'explore'))
