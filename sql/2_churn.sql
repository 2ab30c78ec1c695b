-- 2_churn: how much tonight's lists differ from those that they replace, mean over users with both, by segment.
-- reads:  recommendations, users; before_lists (user_id, rank, item_id), the lists that are live
-- writes: nothing; returns the columns of `churn` after compared_with
-- params: p, the persistence of rank-biased overlap: the probability of reading one more rank
--
-- Jaccard@N = |S ∩ T| / |S ∪ T| of the top-N items. RBO extrapolated, Webber, Moffat and Zobel 2010, eq. 32, for
-- lists of s <= l items with overlap X_d at depth d:
--   (1-p)/p ( Σ_{d=1}^{l} X_d/d p^d + Σ_{d=s+1}^{l} X_s (d-s)/(s d) p^d ) + ((X_l - X_s)/l + X_s/s) p^l
-- A common item counts in every X_d from the worse of its two ranks, m, on, so the first sum is Σ over common items
-- of C(l) - C(m-1), with C(k) = Σ_{d<=k} p^d/d. Beyond the end of the shorter list, X_d stays constant.
with lengths as (
    select least(
        (select max(rank) from recommendations), (select max(rank) from before_lists)
    ) as cutoff
),

now_lists as (
    select user_id, rank, item_id, source from recommendations where rank <= (select cutoff from lengths)
),

then_lists as (
    select user_id, rank, item_id from before_lists where rank <= (select cutoff from lengths)
),

weights as (
    select
        range as k,
        sum(case when range = 0 then 0 else pow($p, range) / range end) over (order by range) as c,
        sum(case when range = 0 then 0 else pow($p, range) end) over (order by range) as g
    from range(0, cast((select cutoff from lengths) as bigint) + 1)
),

sizes as (
    select
        user_id,
        n_now,
        n_then,
        is_fallback,
        least(n_now, n_then) as s,
        greatest(n_now, n_then) as l
    from (
        select user_id, count(*) as n_now, bool_or(source = 'fallback') as is_fallback
        from now_lists
        group by user_id
    )
    join (select user_id, count(*) as n_then from then_lists group by user_id) using (user_id)
),

common as (
    select
        sizes.user_id,
        count(*) as x_l,
        count(*) filter (greatest(now_lists.rank, then_lists.rank) <= sizes.s) as x_s,
        sum(upto_l.c - before_m.c) as agreement
    from sizes
    join now_lists using (user_id)
    join then_lists on then_lists.user_id = now_lists.user_id and then_lists.item_id = now_lists.item_id
    join weights as upto_l on upto_l.k = sizes.l
    join weights as before_m on before_m.k = greatest(now_lists.rank, then_lists.rank) - 1
    group by sizes.user_id
),

compared as (
    select
        sizes.user_id,
        sizes.is_fallback,
        coalesce(common.x_l, 0) / (sizes.n_now + sizes.n_then - coalesce(common.x_l, 0)) as jaccard,
        coalesce(
            (1 - $p) / $p * (
                common.agreement
                + common.x_s / sizes.s * ((upto_l.g - upto_s.g) - sizes.s * (upto_l.c - upto_s.c))
            )
            + ((common.x_l - common.x_s) / sizes.l + common.x_s / sizes.s) * pow($p, sizes.l),
            0
        ) as rbo
    from sizes
    left join common using (user_id)
    join weights as upto_l on upto_l.k = sizes.l
    join weights as upto_s on upto_s.k = sizes.s
),

thirds as (
    select compared.*, ntile(3) over (order by users.n_interactions, user_id) as third
    from compared
    join users using (user_id)
),

members as (
    select 'all' as segment, * from thirds
    union all
    select ['activity_low', 'activity_mid', 'activity_high'][third] as segment, * from thirds
    union all
    select case when is_fallback then 'fallback' else 'model' end as segment, * from thirds
),

measured as (
    select segment, count(*) as n, avg(jaccard) as jaccard, avg(rbo) as rbo
    from members
    group by segment
),

shown as (
    select
        members.segment,
        now_lists.item_id,
        true as is_now
    from members
    join now_lists using (user_id)
    union
    select
        members.segment,
        then_lists.item_id,
        false as is_now
    from members
    join then_lists using (user_id)
),

moved as (
    select
        segment,
        item_id,
        bool_or(is_now) as is_now,
        bool_or(not is_now) as was_then
    from shown
    group by segment, item_id
),

items as (
    select
        segment,
        count(*) filter (is_now and not was_then) as items_entered,
        count(*) filter (was_then and not is_now) as items_left
    from moved
    group by segment
),

final as (
    select
        measured.segment,
        cast((select cutoff from lengths) as integer) as cutoff,
        measured.n,
        measured.jaccard,
        measured.rbo,
        items.items_entered,
        items.items_left
    from measured
    join items using (segment)
    order by measured.segment
)

select * from final
