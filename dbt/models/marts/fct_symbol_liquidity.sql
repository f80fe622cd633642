{%- set window_sessions = 20 -%}
{%- set least_sessions = 16 -%}
-- dollar volume, because a split changes volume in shares and not in dollars
with returns as (

    select *
    from {{ ref('int_market__daily_return') }}
    where {{ session_window_filter('session_no', window_sessions, ref('dim_session')) }}

),

equities as (

    select symbol
    from {{ ref('dim_instrument') }}
    where kind = 'equity'

),

windowed as (

    select
        returns.session,
        returns.symbol,
        returns.volume_shares,
        returns.dollar_volume_usd,
        count(*) over past_20d as sessions_in_window,
        avg(returns.dollar_volume_usd) over past_20d as average_dollar_volume,
        avg(abs(returns.total_return) / nullif(returns.dollar_volume_usd / 1e6, 0)) over past_20d
            as mean_move_per_million,
        bool_or(returns.dollar_volume_simulated) over past_20d as simulated
    from returns
    inner join equities
        on returns.symbol = equities.symbol
    window past_20d as (
        -- by session number: a missing bar shortens the window, an older bar does not fill it
        partition by returns.symbol
        order by returns.session_no
        range between {{ window_sessions - 1 }} preceding and current row
    )

),

final as (

    select
        session,
        symbol,
        volume_shares,
        dollar_volume_usd,
        case when sessions_in_window >= {{ least_sessions }} then average_dollar_volume end
            as average_dollar_volume_20d_usd,
        case
            when sessions_in_window >= {{ least_sessions }}
                then dollar_volume_usd / nullif(average_dollar_volume, 0)
        end as dollar_volume_ratio_20d,
        case when sessions_in_window >= {{ least_sessions }} then mean_move_per_million end
            as amihud_illiquidity_20d_per_musd,
        sessions_in_window,
        simulated
    from windowed
    where {{ session_filter('session') }}

)

select * from final
