-- severity: error
-- reads: user_vectors, item_vectors, biases, predictions, users, items
-- Vectors, biases and predicted ratings are finite and of users and items that are in the tables; all vectors of a table have the
-- same length.
with vectors as (
    select 'user' as kind, id, vector from user_vectors
    union all
    select 'item', id, vector from item_vectors
),

known as (
    select 'user' as kind, user_id as id from users
    union all
    select 'item', item_id from items
),

named as (
    select kind, id from vectors
    union all
    select kind, id from biases
),

lengths as (
    select kind, count(distinct len(vector)) as n from vectors group by kind
),

final as (
    select kind, id, 'a number is not finite' as problem
    from vectors
    where not isfinite(list_sum(vector))
    union all
    select kind, id, 'a bias is not finite' from biases where not isfinite(bias)
    union all
    select 'prediction', user_id, 'a rating is not finite'
    from predictions
    where not isfinite(rating) or not isfinite(prediction)
    union all
    select kind, null, 'lengths differ' from lengths where n > 1
    union all
    select named.kind, named.id, 'unknown' from named anti join known using (kind, id)
    union all
    select 'prediction', user_id, 'unknown' from predictions anti join users using (user_id)
)

select * from final
