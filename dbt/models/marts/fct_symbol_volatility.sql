{%- set short_sessions = 20 -%}
{%- set long_sessions = 60 -%}
with returns as (

    select *
    from {{ ref('int_market__daily_return') }}
    where {{ session_window_filter('session_no', long_sessions, ref('dim_session')) }}

),

windowed as (

    select
        session,
        symbol,
        total_return,
        count(total_return) over past_20d as returns_20d,
        count(total_return) over past_60d as returns_60d,
        stddev_samp(total_return) over past_20d as volatility_20d,
        stddev_samp(total_return) over past_60d as volatility_60d,
        bool_or(return_simulated) over past_60d as simulated
    from returns
    window
        -- by session number: a missing return shortens the window, an older one does not fill it
        past_20d as (
            partition by symbol
            order by session_no
            range between {{ short_sessions - 1 }} preceding and current row
        ),
        past_60d as (
            partition by symbol
            order by session_no
            range between {{ long_sessions - 1 }} preceding and current row
        )

),

final as (

    select
        session,
        symbol,
        total_return,
        case when returns_20d >= 0.8 * {{ short_sessions }} then volatility_20d end
            as volatility_20d,
        case when returns_60d >= 0.8 * {{ long_sessions }} then volatility_60d end
            as volatility_60d,
        returns_60d as returns_in_window,
        coalesce(simulated, false) as simulated
    from windowed
    where {{ session_filter('session') }}

)

select * from final
