-- close * split_ratio / (previous close - dividend) - 1 is what multiplicative adjustment
-- (factor 1 / split_ratio * (1 - dividend / previous close) at the ex-date) gives; the dividend is
-- per share as traded before the ex-date. No return is carried over a missing session.
with bars as (

    select * from {{ ref('int_market__bar') }}

),

sessions as (

    select * from {{ ref('dim_session') }}

),

ex_dates as (

    select * from {{ ref('int_market__ex_date') }}

),

joined as (

    select
        bars.session,
        bars.symbol,
        sessions.session_no,
        sessions.previous_session,
        bars.close_usd,
        previous.close_usd as previous_close_usd,
        coalesce(ex_dates.split_ratio, 1) as split_ratio,
        coalesce(ex_dates.dividend_usd, 0) as dividend_usd,
        bars.volume_shares,
        bars.dollar_volume_usd,
        bars.return_simulated or coalesce(previous.return_simulated, false) as return_simulated,
        bars.dollar_volume_simulated
    from bars
    inner join sessions
        on bars.session = sessions.session
    left join bars as previous
        on
            sessions.previous_session = previous.session
            and bars.symbol = previous.symbol
    left join ex_dates
        on
            bars.session = ex_dates.session
            and bars.symbol = ex_dates.symbol

),

final as (

    select
        session,
        symbol,
        session_no,
        previous_session,
        close_usd,
        previous_close_usd,
        split_ratio,
        dividend_usd,
        volume_shares,
        dollar_volume_usd,
        close_usd * split_ratio / nullif(previous_close_usd - dividend_usd, 0) - 1 as total_return,
        return_simulated,
        dollar_volume_simulated
    from joined

)

select * from final
