-- severity: error
-- reads: recommendations_by, item_attributes, masking_rows, ranked_items, active_users, wanted
-- Lists by attribute have dense ranks, finite scores that do not increase, only listable items with the value, none twice and
-- none that the user has, as many as there are up to by.top_n, for active users only, and by.values values each, or as many as have
-- an item left.
with placed as (
    select
        *,
        row_number() over (partition by user_id, attribute, value order by rank) as expected_rank,
        lag(score) over (partition by user_id, attribute, value order by rank) as score_before
    from recommendations_by
),

repeated as (  -- by hash, which needs less memory than the ids
    select hash(user_id, attribute, value, item_id) as key from recommendations_by group by key having count(*) > 1
),

listable as (
    select item_attributes.attribute, item_attributes.value, item_attributes.item_id
    from item_attributes
    semi join ranked_items using (item_id)
    where item_attributes.attribute = (select by_attribute from wanted)
),

sizes as (
    select attribute, value, count(*) as n from listable group by all
),

seen as (
    select masking_rows.user_id, listable.attribute, listable.value, count(distinct masking_rows.item_id) as n
    from masking_rows
    join listable using (item_id)
    group by all
),

used_up as (
    select seen.user_id, count(*) as n
    from seen
    join sizes using (attribute, value)
    where seen.n >= sizes.n
    group by seen.user_id
),

lengths as (
    select user_id, attribute, value, count(*) as n from recommendations_by group by all
),

final as (
    select user_id, value, item_id, 'rank' as problem from placed where rank <> expected_rank
    union all
    select user_id, value, item_id, 'score' from placed where not isfinite(score) or score > score_before
    union all
    select placed.user_id, placed.value, placed.item_id, 'not listable, or without the value'
    from placed
    anti join listable using (attribute, value, item_id)
    union all
    select placed.user_id, placed.value, placed.item_id, 'the user has it'
    from placed
    semi join masking_rows using (user_id, item_id)
    union all
    select lengths.user_id, lengths.value, null, 'length'
    from lengths
    left join sizes using (attribute, value)
    left join seen using (user_id, attribute, value)
    where lengths.n <> least((select by_n from wanted), sizes.n - coalesce(seen.n, 0))
    union all
    select rows.user_id, rows.value, rows.item_id, 'twice'
    from recommendations_by as rows
    semi join repeated on repeated.key = hash(rows.user_id, rows.attribute, rows.value, rows.item_id)
    group by rows.user_id, rows.attribute, rows.value, rows.item_id
    having count(*) > 1
    union all
    select lengths.user_id, null, null, 'too many values'
    from lengths
    group by lengths.user_id
    having count(*) > (select by_values from wanted)
    union all
    select active_users.user_id, null, null, 'too few values'
    from active_users
    left join used_up using (user_id)
    left join (select user_id, count(*) as n from lengths group by user_id) as own using (user_id)
    where coalesce(own.n, 0)
        < least((select by_values from wanted), (select count(*) from sizes) - coalesce(used_up.n, 0))
    union all
    select lengths.user_id, null, null, 'not active'
    from lengths
    anti join active_users using (user_id)
)

select * from final
