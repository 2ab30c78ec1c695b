-- 4_realised: ranks of what users did after the data of a published night ended, in its lists and in those of popularity.
-- reads:  source_rows (with masks: the event keeps an item out of lists, and is_target: metrics count it); positives (user_id, item_id), of the target; published.recommendations, published.popular_items
-- writes: nothing; returns user_id, item_id, source (of the user's list, promoted and explored rows aside; null: it has no others), rank and popularity_rank (null: not listed)
-- params: after, until: the interactions that count; window_days of popular_items
--
-- An item counts if the user has a row of the target with it in the time, it is positive, no earlier row masks it, and the user has a
-- published list.
-- Popularity lists the night's popular items that the user did not know by then.
with active as (
    select distinct user_id from source_rows where is_target and timestamp > $after and timestamp <= $until
),

pairs as (
    select
        source_rows.user_id,
        source_rows.item_id,
        bool_or(source_rows.masks and source_rows.timestamp <= $after) as is_known,
        bool_or(
            source_rows.is_target and source_rows.timestamp > $after and source_rows.timestamp <= $until
        ) as is_since
    from source_rows
    semi join active using (user_id)
    group by all
),

listed as (
    select
        user_id,
        min_by(source, rank) filter (source not in ('promoted', 'explore')) as source
    from published.recommendations
    group by user_id
),

truth as (
    select
        pairs.user_id,
        pairs.item_id,
        listed.source
    from pairs
    semi join positives on positives.user_id = pairs.user_id and positives.item_id = pairs.item_id
    join listed on listed.user_id = pairs.user_id
    where pairs.is_since and not pairs.is_known
),

popular as (
    select
        users.user_id,
        popular_items.item_id,
        row_number() over (partition by users.user_id order by popular_items.rank) as rank
    from (select distinct user_id from truth) as users
    cross join published.popular_items as popular_items
    anti join (select * from pairs where is_known) as known
        on known.user_id = users.user_id and known.item_id = popular_items.item_id
    where popular_items.window_days = $window_days
),

final as (
    select
        truth.user_id,
        truth.item_id,
        truth.source,
        lists.rank,
        cast(popular.rank as integer) as popularity_rank
    from truth
    left join published.recommendations as lists
        on lists.user_id = truth.user_id and lists.item_id = truth.item_id
    left join popular on popular.user_id = truth.user_id and popular.item_id = truth.item_id
)

select * from final order by user_id, item_id
