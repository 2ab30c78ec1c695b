-- 4_realised: ranks of what users did after the data of a published night ended, in its lists and in those of popularity.
-- reads:  source_rows; positives (user_id, item_id); published.recommendations, published.popular_items
-- writes: nothing; returns user_id, item_id, source (of the user's list), rank and popularity_rank (null: not listed)
-- params: after, until: the interactions that count; window_days of popular_items
--
-- An interaction counts if it is the user's first with the item, is positive, and the user has a published list.
-- Popularity lists the night's popular items that the user did not know by then.
with active as (
    select distinct user_id from source_rows where timestamp > $after and timestamp <= $until
),

firsts as (
    select
        source_rows.user_id,
        source_rows.item_id,
        min(source_rows.timestamp) as first_seen
    from source_rows
    semi join active using (user_id)
    group by all
),

listed as (
    select
        user_id,
        min_by(source, rank) as source
    from published.recommendations
    group by user_id
),

truth as (
    select
        firsts.user_id,
        firsts.item_id,
        listed.source
    from firsts
    semi join positives on positives.user_id = firsts.user_id and positives.item_id = firsts.item_id
    join listed on listed.user_id = firsts.user_id
    where firsts.first_seen > $after and firsts.first_seen <= $until
),

popular as (
    select
        users.user_id,
        popular_items.item_id,
        row_number() over (partition by users.user_id order by popular_items.rank) as rank
    from (select distinct user_id from truth) as users
    cross join published.popular_items as popular_items
    anti join (select * from firsts where first_seen <= $after) as known
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
