-- severity: error
-- reads: users, recommendations, masking_rows, ranked_items, wanted, active_users
-- Every active user with a valid row has min(top_n, listable items that no masking row of theirs has) recommendations; fewer
-- only where a limit by attribute leaves fewer. Other users have none.
with seen as (
    select user_id, count(distinct item_id) as n
    from masking_rows
    semi join ranked_items using (item_id)
    group by user_id
),

listed as (
    select user_id, count(*) as n from recommendations group by user_id
),

final as (
    select
        users.user_id,
        coalesce(listed.n, 0) as n,
        case
            when active_users.user_id is null then 0
            else least((select top_n from wanted), (select count(*) from ranked_items) - coalesce(seen.n, 0))
        end as expected
    from users
    left join active_users using (user_id)
    left join seen using (user_id)
    left join listed using (user_id)
)

select * from final where n > expected or (n < expected and (select exact from wanted))
