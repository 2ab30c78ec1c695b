-- severity: error
-- reads: recommendations_in, users, active_users, masking_rows, wanted_in, ranked_in, promotable_in, explorable_in
-- Every list of [lists] obeys what the default one does: dense ranks, no item twice, none that the user has, none that its
-- rules exclude or that is not in the fit, finite scores that do not increase, and for each active user as many items as
-- there are, up to its top_n. Promoted and new items are such by its own keys.
with placed as (
    select
        recommendations_in.*,
        row_number() over (partition by list, user_id order by rank) as expected_rank,
        count(*) over (partition by list, user_id) as n,
        count(*) over (partition by list, user_id, item_id) as times,
        count(*) filter (source = 'explore') over (partition by list, user_id) as n_explored,
        lag(score) over (partition by list, user_id, source in ('promoted', 'explore') order by rank) as score_before
    from recommendations_in
),

seen as (
    select ranked_in.list, masking_rows.user_id, count(distinct masking_rows.item_id) as n
    from masking_rows
    join ranked_in using (item_id)
    group by all
),

listable as (
    select wanted_in.list, count(ranked_in.item_id) as n
    from wanted_in
    left join ranked_in using (list)
    group by all
),

lengths as (
    select
        wanted_in.list,
        users.user_id,
        coalesce(listed.n, 0) as n,
        wanted_in.exact,
        case
            when active_users.user_id is null then 0
            else least(wanted_in.top_n, listable.n - coalesce(seen.n, 0))
        end as expected
    from users
    cross join wanted_in
    join listable using (list)
    left join active_users using (user_id)
    left join seen on seen.list = wanted_in.list and seen.user_id = users.user_id
    left join (select distinct list, user_id, n from placed) as listed
        on listed.list = wanted_in.list and listed.user_id = users.user_id
),

final as (
    select list, user_id, rank, item_id, 'rank' as problem from placed where rank <> expected_rank
    union all
    select list, user_id, rank, item_id, 'twice' from placed where times > 1
    union all
    select list, user_id, rank, item_id, 'score' from placed
    where not isfinite(score) or (score > score_before and source not in ('promoted', 'explore'))
    union all
    select placed.list, placed.user_id, placed.rank, placed.item_id, 'the user has it'
    from placed
    semi join masking_rows using (user_id, item_id)
    union all
    select placed.list, placed.user_id, placed.rank, placed.item_id, 'excluded, or not in the fit'
    from placed
    anti join ranked_in using (list, item_id)
    where placed.source <> 'explore'
    union all
    select placed.list, placed.user_id, placed.rank, placed.item_id, 'no new item, or too many, or at the top'
    from placed
    left join wanted_in using (list)
    left join explorable_in using (list, item_id)
    where placed.source = 'explore'
        and (explorable_in.item_id is null or placed.rank = 1 or placed.n_explored > wanted_in.explored)
    union all
    select placed.list, placed.user_id, placed.rank, placed.item_id, 'not promoted to this place'
    from placed
    where placed.source = 'promoted' and not exists (
        from promotable_in
        where promotable_in.list = placed.list and promotable_in.item_id = placed.item_id
            and (
                promotable_in.place = placed.rank
                or (promotable_in.place > placed.rank and promotable_in.place > placed.n)
            )
    )
    union all
    select list, user_id, n, null, 'length'
    from lengths
    where n > expected or (n < expected and (n = 0 or exact))
)

select * from final
