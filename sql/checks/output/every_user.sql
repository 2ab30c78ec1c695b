-- severity: error
-- reads: users, recommendations, masking_rows, ranked_items, held_items, wanted, active_users
-- Every active user with a valid row has min(top_n, listable items that no masking row of theirs has) recommendations; fewer
-- only where a limit by attribute leaves fewer. Other users have none. For held-back users, items count that their model lists.
with listable as (
    select item_id, false as of_held from ranked_items
    union all
    select item_id, true from held_items
),

sizes as (
    select of_held, count(*) as n from listable group by of_held
),

seen as (
    select masking_rows.user_id, listable.of_held, count(distinct masking_rows.item_id) as n
    from masking_rows
    join listable using (item_id)
    group by all
),

listed as (
    select user_id, count(*) as n, bool_or(source = 'holdback') as of_held from recommendations group by user_id
),

final as (
    select
        users.user_id,
        coalesce(listed.n, 0) as n,
        case
            when active_users.user_id is null then 0
            else least((select top_n from wanted), coalesce(sizes.n, 0) - coalesce(seen.n, 0))
        end as expected
    from users
    left join active_users using (user_id)
    left join listed using (user_id)
    left join sizes on sizes.of_held = coalesce(listed.of_held, false)
    left join seen on seen.user_id = users.user_id and seen.of_held = coalesce(listed.of_held, false)
)

select * from final where n > expected or (n < expected and (select exact from wanted))
