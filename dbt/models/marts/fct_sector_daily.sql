-- sums run in the order of symbols: floating-point sums depend on it, and a session built alone
-- must end in the same bytes as one built with all
with members as (

    select *
    from {{ ref('stg_reference__universe_member') }}
    where {{ session_filter('session') }}

),

returns as (

    select *
    from {{ ref('int_market__daily_return') }}
    where {{ session_filter('session') }}

),

final as (

    select
        members.session,
        members.sector,
        count(*) as members,
        count(returns.total_return) as members_with_return,
        avg(returns.total_return order by members.symbol) as mean_return,
        percentile_cont(0.5) within group (order by returns.total_return) as median_return,
        stddev_samp(returns.total_return order by members.symbol) as return_dispersion,
        count(*) filter (where returns.total_return > 0) as advancers,
        count(*) filter (where returns.total_return < 0) as decliners,
        sum(returns.dollar_volume_usd order by members.symbol) as dollar_volume_usd,
        coalesce(bool_or(returns.return_simulated), false) as return_simulated,
        coalesce(bool_or(returns.dollar_volume_simulated), false) as dollar_volume_simulated
    from members
    left join returns
        on
            members.session = returns.session
            and members.symbol = returns.symbol
    group by members.session, members.sector

)

select * from final
