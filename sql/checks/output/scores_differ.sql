-- severity: warn
-- reads: recommendations
-- At least half of the users with two or more items from the model have scores that are not all equal.
with lists as (
    select user_id, min(score) = max(score) as is_constant
    from recommendations
    where source = 'model'
    group by user_id
    having count(*) > 1
),

final as (
    select count(*) filter (is_constant) as n_constant, count(*) as n from lists
)

select * from final where n_constant > 0.5 * n
