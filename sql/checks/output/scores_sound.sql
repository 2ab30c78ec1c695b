-- severity: error
-- reads: recommendations
-- Scores are finite and, promoted items left out, do not increase with the rank.
with final as (
    select
        user_id,
        rank,
        score,
        lag(score) over (partition by user_id, source = 'promoted' order by rank) as score_before,
        source
    from recommendations
)

select user_id, rank, score, score_before from final
where not isfinite(score) or (score > score_before and source <> 'promoted')
