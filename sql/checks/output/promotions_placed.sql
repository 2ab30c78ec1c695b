-- severity: error
-- reads: recommendations, promotable_items
-- A promoted item is one that [export] promotes to its place, or to a later one where the list ends before that place.
with lengths as (
    select user_id, count(*) as n from recommendations group by user_id
),

final as (
    select promoted.user_id, promoted.rank, promoted.item_id
    from recommendations as promoted
    join lengths using (user_id)
    where promoted.source = 'promoted' and not exists (
        from promotable_items
        where promotable_items.item_id = promoted.item_id
            and (
                promotable_items.place = promoted.rank
                or (promotable_items.place > promoted.rank and promotable_items.place > lengths.n)
            )
    )
)

select * from final
