-- rendered from the contracts by `marketlake contracts render`; do not edit
with source as (

    select * from {{ source('core', 'signals__signal') }}

),

final as (

    select
        session,
        symbol,
        score_bps,
        rank,
        side,
        probability_up,
        probability_right,
        conformal_set,
        confidence,
        confidence_low,
        confidence_high,
        confidence_n,
        base_rate,
        horizon_sessions,
        model_name,
        model_sha256,
        simulated,
        known_at_utc
    from source

)

select * from final
