-- a view: signals of a session are computed after this project ran for it
with signals as (

    select * from {{ ref('stg_signals__signal') }}

),

members as (

    select * from {{ ref('stg_reference__universe_member') }}

),

final as (

    select
        signals.session,
        signals.symbol,
        members.sector,
        signals.rank,
        signals.side,
        signals.score_bps,
        signals.probability_up,
        signals.probability_right,
        signals.conformal_set,
        signals.confidence,
        signals.confidence_low,
        signals.confidence_high,
        signals.confidence_n,
        signals.base_rate,
        signals.horizon_sessions,
        signals.model_name,
        signals.model_sha256,
        signals.simulated,
        signals.known_at_utc
    from signals
    left join members
        on
            signals.session = members.session
            and signals.symbol = members.symbol

)

select * from final
