-- which of a bar's quantities a generator made, as answers to the two questions that marts ask
with bars as (

    select * from {{ ref('stg_market__daily_bar') }}

),

final as (

    select
        session,
        symbol,
        close_usd,
        volume_shares,
        close_usd * volume_shares as dollar_volume_usd,
        {{ any_simulated('simulated_fields', ['adjusted_close', 'benchmark_close']) }}
            as return_simulated,
        {{ any_simulated('simulated_fields', ['close_usd', 'volume_shares']) }}
            as dollar_volume_simulated
    from bars

)

select * from final
