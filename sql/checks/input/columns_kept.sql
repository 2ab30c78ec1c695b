-- severity: warn
-- reads: tonight, earlier_nights
-- If the last published night had ratings or times, tonight's source has them too.
with before as (
    select * from earlier_nights order by run_id desc limit 1
)

select
    before.run_id as night_before,
    before.rated as rated_before,
    tonight.rated,
    before.timed as timed_before,
    tonight.timed
from tonight, before
where (before.rated and not tonight.rated) or (before.timed and not tonight.timed)
