-- severity: error
-- reads: users, recommendations, masking_rows, ranked_items, held_items, held_users, wanted, active_users
-- Every active user with a valid row has min(top_n, listable items that no masking row of theirs has) recommendations; fewer
-- only where a limit by attribute leaves fewer, and never none. Other users have none. For held-back users, items count that
-- their model lists.
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
    select
        user_id,
        count(*) as n,
        bool_or(source in ('model', 'fallback')) as of_champion,
        bool_or(source = 'holdback') as of_other
    from recommendations
    group by user_id
),

of_model as (
    select
        users.user_id,
        coalesce(listed.n, 0) as n,
        coalesce(listed.of_other, false)
        or (held_users.user_id is not null and not coalesce(listed.of_champion, false)) as of_held
    from users
    left join listed using (user_id)
    left join held_users using (user_id)
),

final as (
    select
        of_model.user_id,
        of_model.n,
        case
            when active_users.user_id is null then 0
            else least((select top_n from wanted), coalesce(sizes.n, 0) - coalesce(seen.n, 0))
        end as expected
    from of_model
    left join active_users using (user_id)
    left join sizes using (of_held)
    left join seen using (user_id, of_held)
)

select * from final
where n > expected or (n < expected and (n = 0 or (select exact from wanted)))
