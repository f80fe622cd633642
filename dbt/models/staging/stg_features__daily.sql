-- rendered from the contracts by `marketlake contracts render`; do not edit
with source as (

    select * from {{ source('core', 'features__daily') }}

),

final as (

    select
        session,
        symbol,
        return_1d,
        return_5d,
        return_10d,
        return_20d,
        return_60d,
        momentum_120d,
        momentum_252d_skip_21d,
        volatility_10d,
        volatility_20d,
        volatility_60d,
        volatility_ratio_10d_60d,
        downside_volatility_20d,
        sma_distance_20d,
        sma_distance_50d,
        sma_distance_200d,
        zscore_20d,
        rsi_14d,
        drawdown_252d,
        beta_60d,
        residual_return_20d,
        skewness_60d,
        rank_return_20d,
        simulated,
        known_at_utc
    from source

)

select * from final
