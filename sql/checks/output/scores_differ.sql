-- severity: warn
-- reads: recommendations
-- Of the users with two items or more from the model, at least half have scores that are not all the same.
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
