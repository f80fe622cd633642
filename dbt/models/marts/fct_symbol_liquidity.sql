{%- set window_sessions = 20 -%}
{%- set least_values = 16 -%}
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

moves as (

    select
        returns.session,
        returns.session_no,
        returns.symbol,
        returns.volume_shares,
        returns.dollar_volume_usd,
        abs(returns.total_return) / nullif(returns.dollar_volume_usd / 1e6, 0) as move_per_million,
        returns.dollar_volume_simulated or returns.return_simulated as simulated
    from returns
    inner join equities
        on returns.symbol = equities.symbol

),

windowed as (

    select
        session,
        symbol,
        volume_shares,
        dollar_volume_usd,
        count(*) over past_20d as sessions_in_window,
        avg(dollar_volume_usd) over past_20d as average_dollar_volume,
        -- fewer than the bars: a return needs the bar before, too
        count(move_per_million) over past_20d as moves_in_window,
        avg(move_per_million) over past_20d as mean_move_per_million,
        bool_or(simulated) over past_20d as simulated
    from moves
    window past_20d as (
        -- by session number: a missing bar shortens the window, an older bar does not fill it
        partition by symbol
        order by session_no
        range between {{ window_sessions - 1 }} preceding and current row
    )

),

final as (

    select
        session,
        symbol,
        volume_shares,
        dollar_volume_usd,
        case when sessions_in_window >= {{ least_values }} then average_dollar_volume end
            as average_dollar_volume_20d_usd,
        case
            when sessions_in_window >= {{ least_values }}
                then dollar_volume_usd / nullif(average_dollar_volume, 0)
        end as dollar_volume_ratio_20d,
        case when moves_in_window >= {{ least_values }} then mean_move_per_million end
            as amihud_illiquidity_20d_per_musd,
        sessions_in_window,
        simulated
    from windowed
    where {{ session_filter('session') }}

)

select * from final
