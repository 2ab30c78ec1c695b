-- severity: error
-- reads: recommendations, users
-- Nobody is recommended to who is not a user.
select distinct user_id from recommendations anti join users using (user_id)
