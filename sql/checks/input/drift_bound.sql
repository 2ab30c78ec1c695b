-- severity: error
-- reads: drift, bounds
-- The shares of new and of lost users and items, against the live tables, are at most the bounds that are set.
-- remedy: is the source the right one? If so, raise the bound for one night, e.g. --set checks.max_new_users=1
with final as (
    select
        drift.measure,
        drift.value,
        case drift.measure
            when 'users_new' then bounds.max_new_users
            when 'users_lost' then bounds.max_lost_users
            when 'items_new' then bounds.max_new_items
            when 'items_lost' then bounds.max_lost_items
        end as largest
    from drift, bounds
)

select * from final
where value > largest
