-- the key of the source allows one split and one dividend a symbol and ex-date
with actions as (

    select * from {{ ref('stg_market__corporate_action') }}

),

final as (

    select
        session,
        symbol,
        coalesce(max(split_ratio), 1) as split_ratio,
        coalesce(max(dividend_usd), 0) as dividend_usd
    from actions
    group by session, symbol

)

select * from final
