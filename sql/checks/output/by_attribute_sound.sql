-- severity: error
-- reads: recommendations_by, item_attributes, masking_rows, ranked_items, active_users, wanted
-- Lists by attribute have dense ranks, finite scores that do not increase, only listable items with the value, none that the
-- user has, as many as there are up to by.top_n, for active users only, and at most by.values values each.
with placed as (
    select
        *,
        row_number() over (partition by user_id, attribute, value order by rank) as expected_rank,
        lag(score) over (partition by user_id, attribute, value order by rank) as score_before
    from recommendations_by
),

listable as (
    select item_attributes.attribute, item_attributes.value, item_attributes.item_id
    from item_attributes
    semi join ranked_items using (item_id)
    where item_attributes.attribute in (select distinct attribute from recommendations_by)
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
    select lengths.user_id, null, null, 'too many values'
    from lengths
    group by lengths.user_id
    having count(*) > (select by_values from wanted)
    union all
    select lengths.user_id, null, null, 'not active'
    from lengths
    anti join active_users using (user_id)
)

select * from final
