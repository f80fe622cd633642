with returns as (

    select * from {{ ref('int_market__daily_return') }}

),

final as (

    select
        session,
        symbol,
        close_usd,
        previous_session,
        previous_close_usd,
        split_ratio,
        dividend_usd,
        total_return,
        return_simulated as simulated
    from returns
    where {{ session_filter('session') }}

)

select * from final
