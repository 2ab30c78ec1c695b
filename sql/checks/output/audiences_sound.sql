-- severity: error
-- reads: audiences, attribute_audiences, masking_rows, ranked_items, active_users
-- Audiences have dense ranks, finite scores that do not increase, each user once, only listable items, and only active users
-- who do not have the item.
with both_kinds as (
    select item_id as name, '' as value, item_id, rank, user_id, score from audiences
    union all
    select attribute, value, null, rank, user_id, score from attribute_audiences
),

placed as (
    select
        *,
        row_number() over (partition by name, value, item_id order by rank) as expected_rank,
        lag(score) over (partition by name, value, item_id order by rank) as score_before,
        count(*) over (partition by name, value, item_id, user_id) as times
    from both_kinds
),

final as (
    select name, value, user_id, 'rank' as problem from placed where rank <> expected_rank
    union all
    select name, value, user_id, 'score' from placed where not isfinite(score) or score > score_before
    union all
    select name, value, user_id, 'twice' from placed where times > 1
    union all
    select name, value, user_id, 'not listable' from placed anti join ranked_items using (item_id)
    where item_id is not null
    union all
    select name, value, user_id, 'the user has it' from placed semi join masking_rows using (user_id, item_id)
    union all
    select name, value, user_id, 'not active' from placed anti join active_users using (user_id)
)

select * from final
