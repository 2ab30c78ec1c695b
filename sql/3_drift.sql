-- 3_drift: how users, items and activity of tonight's source differ from those of the live tables.
-- reads:  source_rows; source_items (item_id, rows), its items; before_users (user_id), before_items (item_id), before_rows (rows) of the live tables, or empty
-- writes: nothing; returns measure and value, one row for each measure that can be computed
-- params: none
with of_users as (
    select
        user_id,
        max(timestamp) as last_seen
    from source_rows
    group by user_id
),

of_items as (
    select * from source_items
),

totals as (
    select
        (select count(*) from source_rows) as rows,
        (select max(timestamp) from source_rows) as newest,
        (select avg(rating) from source_rows) as rating_mean
),

users as (
    select
        count(*) as n,
        count(*) filter (last_seen > (select newest from totals) - interval 7 day) as active
    from of_users
),

items as (
    select count(*) as n from of_items
),

most_popular as (
    select sum(rows) as rows
    from (
        select
            rows,
            row_number() over (order by rows desc) as place
        from of_items
    )
    where place <= ceil(0.01 * (select n from items))
),

before as (
    select
        (select max(rows) from before_rows) as rows,
        (select count(*) from before_users) as users,
        (select count(*) from before_items) as items
),

shared as (
    select
        (select count(*) from of_users semi join before_users using (user_id)) as users,
        (select count(*) from of_items semi join before_items using (item_id)) as items
),

measured as (
    select 'rows_change' as measure, totals.rows / nullif(before.rows, 0) - 1 as value from totals, before
    union all
    select 'users_new', case when before.users > 0 then 1 - shared.users / users.n end from users, before, shared
    union all
    select 'users_lost', 1 - shared.users / nullif(before.users, 0) from before, shared
    union all
    select 'users_active', case when totals.newest is not null then users.active / users.n end from totals, users
    union all
    select 'items_new', case when before.items > 0 then 1 - shared.items / items.n end from items, before, shared
    union all
    select 'items_lost', 1 - shared.items / nullif(before.items, 0) from before, shared
    union all
    select 'items_top_share', most_popular.rows / totals.rows from most_popular, totals
    union all
    select 'rows_per_user', totals.rows / users.n from totals, users
    union all
    select 'rating_mean', rating_mean from totals
),

final as (
    select measure, cast(value as double) as value from measured where isfinite(value)
)

select * from final order by measure
