-- 1_interactions: casts the text columns of a source to typed rows. Strict: the first value outside a plain grammar
-- raises an error. The file is then read line by line, which keeps unusual but valid values and rejects invalid ones.
-- reads:  source_text (user_text, item_text, rating_text, timestamp_text, extra columns), in source order
--         (rating_text and timestamp_text may be numbers already if is_plain)
-- writes: nothing; returns the columns of `raw`, then the extra columns as they are
-- params: has_rating, missing_ratings, clock (none, count, nanoseconds, iso or format), scale (microseconds per count),
--         format (of strptime), is_plain (no blank, underscore or plus in the file: a cast is strict enough)
with source as (
    select * from source_text
),

typed as (
    select
        case when strlen(user_text) between 1 and 1024 then user_text else error('user') end as user_id,
        case when strlen(item_text) between 1 and 1024 then item_text else error('item') end as item_id,
        case
            when not $has_rating then null
            when rating_text is not null and (
                $is_plain or regexp_full_match(
                    cast(rating_text as varchar), '[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?'
                )
            )
                then cast(rating_text as double)
            else error('rating')
        end as rating,
        case
            when $clock = 'none' then null
            when $clock = 'count' and ($is_plain or regexp_full_match(cast(timestamp_text as varchar), '[0-9]+(\.0*)?'))
                and cast(timestamp_text as double) between 0 and greatest(1e15, 1e16 / $scale)
                and cast(timestamp_text as double) = floor(cast(timestamp_text as double))
                then make_timestamp(cast(cast(timestamp_text as double) as bigint) * $scale)
            when $clock = 'nanoseconds' and regexp_full_match(cast(timestamp_text as varchar), '[0-9]{1,19}')
                then make_timestamp(cast(cast(timestamp_text as varchar) as bigint) // 1000)
            when $clock = 'iso' and regexp_full_match(
                cast(timestamp_text as varchar),
                '[0-9]{4}-[0-9]{2}-[0-9]{2}([T ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,6})?Z?)?'
            )
                then cast(timestamp_text as timestamp)
            when $clock = 'format'
                and strftime(strptime(cast(timestamp_text as varchar), $format), $format)
                    = cast(timestamp_text as varchar)
                then strptime(cast(timestamp_text as varchar), $format)
            else error('timestamp')
        end as "timestamp",
        * exclude (user_text, item_text, rating_text, timestamp_text)
    from source
),

final as (
    select
        user_id,
        item_id,
        case
            when rating is null or list_contains(cast($missing_ratings as double[]), rating) then null
            when abs(rating) <= 3.4028234663852886e38 then rating
            else error('rating')
        end as rating,
        case
            when "timestamp" is null then null
            when "timestamp" >= timestamp '1970-01-01' and "timestamp" < timestamp '2100-01-01' then "timestamp"
            else error('timestamp')
        end as "timestamp",
        * exclude (user_id, item_id, rating, "timestamp")
    from typed
)

select * from final
