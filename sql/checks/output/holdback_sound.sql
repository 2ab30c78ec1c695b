-- severity: error
-- reads: recommendations, held_users
-- Held-back users have no row of the champion, all others none of the holdback.
select
    recommendations.user_id,
    recommendations.rank,
    recommendations.source
from recommendations
left join held_users using (user_id)
where (recommendations.source = 'holdback') <> (held_users.user_id is not null)
    and recommendations.source in ('model', 'holdback')
